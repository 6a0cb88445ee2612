-- figures of a run as a whole go, those of the names that are given
delete from metrics where run_id = $run_id and generation_id is null and list_contains($names, name)
