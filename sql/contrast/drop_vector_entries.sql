-- the entries of a behaviour's vectors go
delete from vector_entries where vector_id in (select v.vector_id from vectors as v where v.name = $behaviour)
