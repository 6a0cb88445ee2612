-- a behaviour's pairs go, their codes, its vectors and their entries
delete from vector_entries where vector_id in (select v.vector_id from vectors as v where v.name = $behaviour);
delete from vectors where name = $behaviour;
delete from pair_codes where name = $behaviour;
delete from pairs where name = $behaviour;
