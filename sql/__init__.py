"""The queries, schema, views and macros."""
