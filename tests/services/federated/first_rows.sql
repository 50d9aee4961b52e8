INSERT INTO federations (tenant, federation_id, description, create_us)
VALUES ('default', 'f1', 'clinics', 1700000000000000),
       ('other', 'f1', '', 1700000000000000);
INSERT INTO nodes (tenant, federation_id, node_id, public_key, fingerprint, flower_node_id, create_us)
VALUES ('default', 'f1', 'n1', 'ecdsa-sha2-nistp384 AAAA', 'aa', '18446744073709551615', 1700000000000000),
       ('default', 'f1', 'n2', 'ecdsa-sha2-nistp384 BBBB', 'bb', '7', 1700000000000000);
INSERT INTO federated_runs (tenant, run_id, federation_id, job_id, create_us, spec, nodes, dataset_manifest_sha256,
                            init_manifest, privacy, recipe, initial_model, num_released, num_events)
VALUES ('default', 'r1', 'f1', 'j1', 1700000000000000,
        '{"model": {"dataset_version": "datasets/d/versions/1"},"num_rounds": 2,"target_model": "models/m"}',
        '["aa", "bb"]', 'dddd', '1111',
        '{"budget": "budgets/b", "delta": 1e-06, "epsilon_left": 3.0, "release": {"count": 1, "noise_multiplier": 2.0, "sampling_rate": 0.5}, "unit": "client"}',
        '2222', '3333', 1, 2),
       ('other', 'r2', 'f1', 'j2', 1700000000000000,
        '{"model": {"dataset_version": "datasets/d/versions/1"},"num_rounds": 2,"target_model": "models/m"}',
        '[]', 'dddd', NULL, NULL, NULL, NULL, 0, 1);
INSERT INTO federated_run_events (tenant, run_id, sequence, time_us, kind, payload)
VALUES ('default', 'r1', 1, 1700000000000000, 'state', '{"state": "PENDING"}'),
       ('default', 'r1', 2, 1700000000000001, 'state', '{"state": "CANCELLED"}'),
       ('other', 'r2', 1, 1700000000000000, 'state', '{"state": "PENDING"}');
INSERT INTO rounds (tenant, run_id, round, attempt, state, plan_time_s, cohort, sealed_model, sealed_state, debit,
                    model_version, record, audit)
VALUES ('default', 'r1', 1, 1, 'RELEASED', 1700000000.25, '["aa", "bb"]', '4444', '5555', 'budgets/b/debits/1',
        'models/m/versions/1',
        '{"epsilon_left": null,"epsilon_spent": null,"metrics": {"loss": 0.5},"num_asked": 2,"num_counted": 2,"refusals": [],"round_s": 1.5,"train_metrics": {}}',
        '{"collect_s": 0.0,"counted": ["f1","f2"],"failure": "","num_links": 0,"num_refusals": 0,"num_resent": 0,"refusals": [],"train_metrics": {}}'),
       ('default', 'r1', 2, 1, 'FAILED', 1700000001.5, '["aa"]', '7777', '8888', '', '',
        '{"epsilon_left": null,"epsilon_spent": null,"metrics": {},"num_asked": null,"num_counted": null,"refusals": [],"round_s": null,"train_metrics": {}}',
        '{"collect_s": 0.0,"counted": [],"failure": "","num_links": 0,"num_refusals": 0,"num_resent": 0,"refusals": [],"train_metrics": {}}'),
       ('default', 'r1', 2, 2, 'COLLECTED', 1700000002.5, '["aa"]', '6666', '', '', '',
        '{"epsilon_left": null,"epsilon_spent": null,"metrics": {},"num_asked": null,"num_counted": null,"refusals": [],"round_s": null,"train_metrics": {}}',
        '{"collect_s": 0.0,"counted": [],"failure": "","num_links": 0,"num_refusals": 0,"num_resent": 0,"refusals": [],"train_metrics": {}}');
INSERT INTO publications (tenant, run_id, sealed_model, manifest, metrics)
VALUES ('default', 'r1', '6666',
        '{"media_type": "application/vnd.deepseek.model.v1+json", "sha256": "e000000000000000000000000000000000000000000000000000000000000000", "size_bytes": 5, "tenant": "default"}',
        '{"test/loss": 0.25}');
