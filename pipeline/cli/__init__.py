"""Commands beside the audit itself: each one main()."""
