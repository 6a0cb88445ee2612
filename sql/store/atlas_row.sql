-- the row of `atlas`; none before a build is planned
select a.* from atlas as a
