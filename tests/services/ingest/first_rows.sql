INSERT INTO uploads (tenant, upload_id, dataset, schema, num_samples, writer, deleted, commit_job, registering_job, manifest,
                     create_us)
VALUES ('default', 'u1', 'datasets/d', '[["text", "text", false, []]]', 3, 2, FALSE, 'jobs/j2', 'jobs/j2',
        '{"media_type": "application/vnd.deepseek.dataset.v1+json", "sha256": "a000000000000000000000000000000000000000000000000000000000000000", "size_bytes": 5, "tenant": "default"}',
        1700000000000000),
       ('other', 'u2', 'datasets/d', '[["text", "text", false, []]]', 0, 2, TRUE, '', 'jobs/j2',
        '{"media_type": "application/vnd.deepseek.dataset.v1+json", "sha256": "b000000000000000000000000000000000000000000000000000000000000000", "size_bytes": 5, "tenant": "other"}',
        1700000000000000);
INSERT INTO upload_keys (tenant, upload_id, key) VALUES ('default', 'u1', 'k0'), ('default', 'u1', 'Bär');
INSERT INTO upload_shards (tenant, upload_id, split, number, sha256, size_bytes, num_samples)
VALUES ('default', 'u1', 'train', 0, 'dddd', 100, 2);
INSERT INTO upload_chunks (tenant, upload_id, split, start, num_samples, num_bytes, data)
VALUES ('default', 'u1', 'train', 0, 1, 4, :bytes);
