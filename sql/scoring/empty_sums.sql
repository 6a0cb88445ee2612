-- temp table: as sql/sum_distances.sql makes it; still empty
create or replace temp table sums (topic_id uinteger, neuron uinteger, wd double, wwd double, wwdd double)
