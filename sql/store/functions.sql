-- a function of the attached file `held`: table_macro, macro or another kind, and its name (DuckDB takes 20 ms to list all)
select f.function_type as kind, f.function_name as name
from duckdb_functions() as f
where f.database_name = 'held' and not f.internal
