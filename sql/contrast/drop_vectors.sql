-- the vectors of a behaviour go
delete from vectors where name = $behaviour
