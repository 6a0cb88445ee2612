-- how well a scoring's ranking holds
update scorings set rank_stability = $rank_stability, top_overlap = $top_overlap, bootstraps = $bootstraps
where scoring_id = $scoring_id
