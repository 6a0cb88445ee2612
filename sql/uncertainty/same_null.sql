-- one row: the set of random topics with these settings over these prompts; none when there is none
select r.null_id
from nulls as r
where r.sae_key = $sae_key and r.summary = $summary and r.distance = $distance and r.power = $power
    and r.min_support = $min_support and r.null_topics = $null_topics and r.texts = $texts
    and r.reference_hash = $reference_hash
