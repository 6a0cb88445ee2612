-- a prompt on which a neuron fires, picked to be shown: one of the $strongest, one of $per_range from each of $ranges equal
-- ranges of activation (those of the strongest left out), or one of $random from all that fire it; which does not change
-- from run to run
with fired as (
    select
        a.prompt_id, a.act_max, a.act_sum, a.act_count, max(a.act_max) over () as highest, count(*) over () as support,
        row_number() over (order by a.act_max desc, a.prompt_id) as place,
        row_number() over (order by hash(a.prompt_id, $neuron::uinteger), a.prompt_id) as drawn,
        row_number() over (order by hash($neuron::uinteger, a.prompt_id), a.prompt_id) as drawn_from_all
    from activations as a
    where a.sae_key = $sae_key and a.neuron = $neuron and isfinite(a.act_max)
), ranged as (
    select f.*, least(floor(coalesce(f.act_max / nullif(f.highest, 0), 0) * $ranges::integer), $ranges::integer - 1)::integer as part
    from fired as f
), shared as (
    select r.*, count(*) over (partition by r.part) / r.support as share
    from ranged as r
), picked as (
    select 'strongest' as kind, s.place as place_in_kind, null as part, null::double as share, s.*
    from shared as s
    where s.place <= $strongest
    union all
    select 'range', row_number() over (partition by s.part order by s.drawn), s.part, s.share, s.*
    from shared as s
    where s.place > $strongest
    qualify row_number() over (partition by s.part order by s.drawn) <= $per_range
    union all
    select 'random', s.drawn_from_all, null, null, s.*
    from shared as s
    where s.drawn_from_all <= $random
)
select
    p.kind, p.place_in_kind as rank, p.part * p.highest / $ranges::integer as low, (p.part + 1) * p.highest / $ranges::integer as high,
    p.share, p.prompt_id, p.act_max, p.act_sum, p.act_count, q.source, q.text
from picked as p
join prompts as q on q.prompt_id = p.prompt_id
order by case p.kind when 'strongest' then 0 when 'range' then 1 else 2 end, p.part desc, p.place_in_kind
