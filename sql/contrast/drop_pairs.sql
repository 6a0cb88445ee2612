-- the pairs of a behaviour go
delete from pairs where name = $behaviour
