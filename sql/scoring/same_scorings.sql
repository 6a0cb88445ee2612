-- the latest scoring of one of the topics $topic_ids with these settings over these prompts
select g.topic_id, max(g.scoring_id) as scoring_id
from scorings as g
where g.topic_id in (select unnest($topic_ids::uinteger[])) and g.sae_key = $sae_key and g.scorer = $scorer
    and g.summary is not distinct from $summary and g.distance is not distinct from $distance
    and g.power is not distinct from $power and g.min_support is not distinct from $min_support
    and g.null_topics is not distinct from $null_topics and g.candidates is not distinct from $candidates
    and g.reference_hash = $reference_hash
group by g.topic_id
