-- a column of a table or view, with the comments of both, in the order they were made
select c.table_name, t.comment as table_comment, c.column_name, c.comment as column_comment
from duckdb_columns() as c
join (
    select x.table_name, x.comment, x.table_oid as oid from duckdb_tables() as x where not x.internal
    union all
    select v.view_name, v.comment, v.view_oid from duckdb_views() as v where not v.internal
) as t on t.table_name = c.table_name
where not c.internal
order by t.oid, c.column_index
