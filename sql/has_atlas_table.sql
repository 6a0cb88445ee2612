-- one row: whether this file holds the tables of an atlas
select count(*) > 0 as is_atlas
from duckdb_tables()
where table_name = 'atlas' and not internal
