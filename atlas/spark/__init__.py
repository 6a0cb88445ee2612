"""Apache Spark in DuckDB's place: an engine for building and one for scoring, for more than one machine holds.

In reading order: `session` (start Spark), `dialect` (the queries of sql/ in its words), `query` (ask and score an
export), `build` (shards as partitions). A query needs nothing new to run on Spark; where sqlglot does not know a word
of DuckDB's, `dialect` has a rule.
"""
