-- the codes of a behaviour's pairs go
delete from pair_codes where name = $behaviour
