-- figures of the texts of a run go, those of the names that are given
delete from metrics where run_id = $run_id and generation_id is not null and list_contains($names, name)
