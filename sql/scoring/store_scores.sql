-- append the computed scores under the scoring ids in the frame `numbered`, with z where the random topics are known and
-- differ by more than the topic's noise
insert into scores (scoring_id, neuron, g, score, se, z)
with centred as (
    select
        c.topic_id, c.neuron, c.g, c.score, c.se,
        c.g - avg(c.g) filter (where c.score is not null) over (partition by c.topic_id) as centred_g
    from computed as c
), compared as (
    select n.scoring_id, n.noise, c.*, r.mean, r.sd
    from centred as c
    join numbered as n on n.topic_id = c.topic_id
    left join null_scores as r on r.null_id = n.null_id and r.neuron = c.neuron
)
select
    x.scoring_id, x.neuron, x.g, x.score, x.se,
    case when x.score is not null and x.sd > x.noise then (x.centred_g - x.mean) / x.sd end as z
from compared as x
order by x.scoring_id, x.neuron
