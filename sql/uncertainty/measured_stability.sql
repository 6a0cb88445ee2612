-- one row: what compute_stability has found
select s.rank_stability, s.top_overlap from stability as s
