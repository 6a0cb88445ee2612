-- one row: mean and covariance of the reference prompts' embeddings
select m.mean, m.covariance from embedding_moments as m
