-- What each daemon may do in the database, where it has an account of its own (docs/operating.md,
-- "Accounts"): no tables of others, no change of the schema, no change of what the ledger says. For
-- an administrator, after each `msg-api migrate`, which has an account with all rights on the database.
-- Applied again it changes nothing.

-- msg-api: accepts, charges, answers; `msg-api audit` and `restore-mode` read everything.
GRANT SELECT ON messaging_platform.* TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.user_balances TO 'msg_api'@'%';
GRANT INSERT ON messaging_platform.user_transactions TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.messages TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.message_status TO 'msg_api'@'%';
GRANT INSERT, UPDATE, DELETE ON messaging_platform.deliveries TO 'msg_api'@'%'; -- receipts
GRANT INSERT, UPDATE, DELETE ON messaging_platform.receipts_early TO 'msg_api'@'%';
GRANT INSERT, UPDATE, DELETE ON messaging_platform.receipts_moved TO 'msg_api'@'%';
GRANT INSERT, UPDATE, DELETE ON messaging_platform.outbox_events TO 'msg_api'@'%';
GRANT INSERT, UPDATE, DELETE ON messaging_platform.idempotency_keys TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.platform_modes TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.api_keys TO 'msg_api'@'%'; -- `msg-api key`; no row goes
GRANT INSERT, UPDATE ON messaging_platform.change_counters TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.webhooks TO 'msg_api'@'%';
GRANT INSERT, UPDATE ON messaging_platform.webhook_events TO 'msg_api'@'%'; -- what is low; to be sent again

-- Where there are several cells (docs/scale.md): msg_move is for `msg-api customer move` and `abort`, which a person
-- runs, in both cells; msg_cell for the other cells' msg-api, which hand on receipts and may do nothing else here.
-- CREATE USER 'msg_move'@'%' IDENTIFIED BY '...'; CREATE USER 'msg_cell'@'%' IDENTIFIED BY '...'; then:
-- GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.* TO 'msg_move'@'%';
-- GRANT SELECT ON messaging_platform.schema_migrations TO 'msg_cell'@'%';
-- GRANT INSERT ON messaging_platform.receipts_early TO 'msg_cell'@'%';

-- msg-outboxd: publishes; `msg-outboxd parked drop` fails and refunds.
GRANT SELECT ON messaging_platform.schema_migrations TO 'msg_outboxd'@'%';
GRANT SELECT, UPDATE ON messaging_platform.platform_modes TO 'msg_outboxd'@'%'; -- to hold, not to set
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.outbox_events TO 'msg_outboxd'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.outbox_parked TO 'msg_outboxd'@'%';
GRANT SELECT, UPDATE ON messaging_platform.messages TO 'msg_outboxd'@'%';
GRANT SELECT, UPDATE ON messaging_platform.message_status TO 'msg_outboxd'@'%';
GRANT SELECT, INSERT, UPDATE ON messaging_platform.user_balances TO 'msg_outboxd'@'%';
GRANT SELECT, INSERT ON messaging_platform.user_transactions TO 'msg_outboxd'@'%';
GRANT SELECT ON messaging_platform.webhooks TO 'msg_outboxd'@'%';
GRANT SELECT, INSERT ON messaging_platform.webhook_events TO 'msg_outboxd'@'%';

-- msg-consumerd: delivers, refunds, puts off, repairs, calls customers' endpoints.
GRANT SELECT ON messaging_platform.schema_migrations TO 'msg_consumerd'@'%';
GRANT SELECT, UPDATE ON messaging_platform.platform_modes TO 'msg_consumerd'@'%'; -- to hold, not to set
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.workers TO 'msg_consumerd'@'%';
GRANT SELECT, UPDATE ON messaging_platform.messages TO 'msg_consumerd'@'%';
GRANT SELECT, UPDATE ON messaging_platform.message_status TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT, UPDATE ON messaging_platform.deliveries TO 'msg_consumerd'@'%'; -- to be told of
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.outbox_events TO 'msg_consumerd'@'%';
GRANT SELECT ON messaging_platform.outbox_parked TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT, UPDATE ON messaging_platform.published_open TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT, UPDATE ON messaging_platform.user_balances TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT ON messaging_platform.user_transactions TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT, UPDATE ON messaging_platform.change_counters TO 'msg_consumerd'@'%'; -- an endpoint is disabled
GRANT SELECT, UPDATE, DELETE ON messaging_platform.webhooks TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.webhook_events TO 'msg_consumerd'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON messaging_platform.webhook_attempts TO 'msg_consumerd'@'%';
