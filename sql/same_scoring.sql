-- one row: the scoring of a topic and SAE with these settings over these prompts; none when there is none
select g.scoring_id
from scorings as g
join topics as t on t.topic_id = g.topic_id
where t.name = $topic and g.sae_key = $sae_key and g.scorer = $scorer
    and g.summary is not distinct from $summary and g.distance is not distinct from $distance
    and g.power is not distinct from $power and g.min_support is not distinct from $min_support
    and g.null_topics is not distinct from $null_topics and g.candidates is not distinct from $candidates
    and g.reference_hash = $reference_hash
