-- one row: the scoring of a topic and SAE with these settings over these prompts; none when there is none
select g.scoring_id
from scorings as g
join topics as t on t.topic_id = g.topic_id
where t.name = $topic and g.sae_key = $sae_key and g.scorer = $scorer and g.summary = $summary
    and g.distance = $distance and g.power = $power and g.min_support = $min_support
    and g.reference_hash = $reference_hash
