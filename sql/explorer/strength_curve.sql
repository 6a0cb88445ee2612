-- a figure of the texts of a topic at one strength of a method, from its last calibration; strength 0 is unsteered text
with strengths as (
    select
        r.run_id, r.evaluation_id, r.method,
        case when r.method = $method then (r.parameters::json -> 'options' ->> 'strength')::double else 0 end as strength
    from runs as r
    where r.topic = $topic and r.method in ('original', $method)
), curves as (
    select s.evaluation_id
    from strengths as s
    where s.method = $method
    group by s.evaluation_id
    having count(distinct s.strength) >= 3
    order by s.evaluation_id desc
    limit 1
)
select s.strength, m.name, m.value, m.low, m.high
from strengths as s
join curves as c on c.evaluation_id = s.evaluation_id
join metrics as m on m.run_id = s.run_id
where m.generation_id is null and m.name in ('perplexity', 'distance_topic')
order by m.name, s.strength
