"""The stages of an audit: tables in, tables out. stage.py lists them, audit.py runs them."""
