-- of the scorings of a topic, SAE and scorer, this one is used from now on
update scorings set is_current = scoring_id = $scoring_id
where sae_key = $sae_key and scorer = $scorer
    and topic_id in (select t.topic_id from topics as t where t.name = $topic)
