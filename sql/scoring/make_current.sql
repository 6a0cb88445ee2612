-- of the scorings of the topics $topic_ids by a scorer on an SAE, those of $scoring_ids are used from now on
update scorings set is_current = (scoring_id in (select unnest($scoring_ids::uinteger[])))
where sae_key = $sae_key and scorer = $scorer and topic_id in (select unnest($topic_ids::uinteger[]))
