INSERT INTO series (tenant, kind, series_id, description, num_versions, create_us)
VALUES ('default', 'model', 'm', 'a model', 2, 1700000000000000), ('other', 'dataset', 'd', '', 1, 1700000000000000);
INSERT INTO versions (tenant, kind, series_id, number, sha256, size_bytes, media_type, num_samples, create_us)
VALUES ('default', 'model', 'm', 1, 'aaaa', 10, 'application/vnd.deepseek.model.v1+json', NULL, 1700000000000000),
       ('default', 'model', 'm', 2, 'bbbb', 11, 'application/vnd.deepseek.model.v1+json', NULL, 1700000000000001),
       ('other', 'dataset', 'd', 1, 'cccc', 12, 'application/vnd.deepseek.dataset.v1+json', 7, 1700000000000000);
INSERT INTO metrics (tenant, kind, series_id, number, position, name, value)
VALUES ('default', 'model', 'm', 1, 0, 'accuracy', 0.1);
INSERT INTO aliases (tenant, kind, series_id, alias_id, number, num_moves, update_us)
VALUES ('default', 'model', 'm', 'production', 2, 1, 1700000000000002);
INSERT INTO alias_moves (tenant, kind, series_id, alias_id, move, from_number, to_number, time_us)
VALUES ('default', 'model', 'm', 'production', 1, NULL, 2, 1700000000000002);
INSERT INTO lineage (tenant, target, source, position)
VALUES ('default', 'models/m/versions/1', 'runs/r1', 0);
