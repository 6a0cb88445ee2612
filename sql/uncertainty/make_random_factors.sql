-- temp table: a prompt, and what its activations are multiplied by, one column null_<n> per random topic n. The frame
-- `random_powers` holds distance ** power in such columns, null for the topic's own prompts. A table and no subquery: the
-- scan joins it by a table's statistics, a third faster.
create or replace temp table random_factors as
select
    p.prompt_id,
    coalesce(columns('null_[0-9]+'), 0)
    / nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0)
from random_powers as d
join prompt_totals as p on p.prompt_id = d.prompt_id and p.sae_key = $sae_key
