-- a table of the atlas, in the order they were made
select t.table_name from duckdb_tables() as t where not t.internal and not t.temporary order by t.table_oid
