-- one of the best neurons of each of the topics $topics by a scorer, per SAE: sql/top_neurons.sql for many topics
select x.*
from (select unnest($topics::varchar[]) as topic) as w,
    lateral (select * from top_neurons(w.topic, $n, sae := $sae, scorer := $scorer, "by" := $by)) as x
order by x.scoring_id, x.rank
