-- a run says anew what it was made and measured with
update runs set parameters = $parameters where run_id = $run_id
