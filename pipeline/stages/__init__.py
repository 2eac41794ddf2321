"""The five stages, each one run(): tables in, tables out."""
