"""The atlas file. The only room that knows DuckDB and SQLAlchemy; the queries are in sql/.

In reading order: `file` (Store: open, read, write, one transaction at a time), `session` (Session: ask a query of
sql/ by name, append a frame), `database` (the sealed connection behind both), `contents` (is everything in the file
ours?), `failures` (database errors as one line), `state` (is the build finished, which SAE does a name mean?),
`weights` (of the prompts for neurons, in runs),
`waiting` (for a file that another process has), `replacement` (a file takes another's place whole or not at all),
`keeping` (what was dear to compute is shown before it is stored), `querying` (a user's own SQL), `spill` (what does
not fit into memory), `cells` (values in tables, JSON and CSV),
`exchange` and `manifest` (an atlas as a folder of Parquet files). To add a table, write one
statement in sql/schema.sql; a query is one file in sql/.
"""
