-- one row: the schema version; no row in an atlas whose build has not begun
select a.schema_version
from atlas as a
