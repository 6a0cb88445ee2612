-- a scoring of the frame `wanted_scorings`: five quantiles of its scores, and how many neurons have one
select
    w.scoring_id, count(s.score) as neurons,
    quantile_cont(s.score, 0.05) as q05,
    quantile_cont(s.score, 0.25) as q25,
    quantile_cont(s.score, 0.5) as q50,
    quantile_cont(s.score, 0.75) as q75,
    quantile_cont(s.score, 0.95) as q95
from wanted_scorings as w
join scores as s on s.scoring_id = w.scoring_id
group by w.scoring_id
order by w.scoring_id
