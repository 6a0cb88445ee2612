-- a thing in the catalog of the attached file `held`, functions left out: its kind, its name, the statement that makes a table
select 'table' as kind, t.table_name as name, t.sql as statement
from duckdb_tables() as t
where t.database_name = 'held'
union all
select 'schema', s.schema_name, null from duckdb_schemas() as s where s.database_name = 'held' and s.schema_name <> 'main'
union all
select 'view', v.view_name, null from duckdb_views() as v where v.database_name = 'held' and not v.internal
union all
select 'type', y.type_name, null from duckdb_types() as y where y.database_name = 'held' and not y.internal
union all
select 'sequence', q.sequence_name, null from duckdb_sequences() as q where q.database_name = 'held'
union all
select 'index', i.index_name, null from duckdb_indexes() as i where i.database_name = 'held'
union all
select 'trigger', r.trigger_name, null from duckdb_triggers() as r where r.database_name = 'held'
