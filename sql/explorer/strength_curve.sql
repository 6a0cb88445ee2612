-- a figure of the texts of one of the runs $runs
select m.run_id, m.name, m.value, m.low, m.high
from metrics as m
where list_contains($runs::uinteger[], m.run_id) and m.generation_id is null and m.name in ('perplexity', 'distance_topic')
order by m.name, m.run_id
