-- Whom to call when something has happened to a customer's messages (libcommon/domain/webhook_store.h),
-- the events that wait for their endpoints or have reached them (webhook_event.h, webhook_queue.h), and
-- what the last calls came to. An event is one row for each endpoint that wants it. Each statement may
-- run twice.
CREATE TABLE IF NOT EXISTS webhooks (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer_id BIGINT NOT NULL,
  url VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  kinds INT UNSIGNED NOT NULL COMMENT 'a bit for each kind of event (webhook.h)',
  batch SMALLINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'events in one request; 1 = without a list around it',
  secret VARBINARY(64) NOT NULL COMMENT 'what requests are signed with',
  old_secret VARBINARY(64) NULL COMMENT 'and with this one too, for a while after a rotation',
  old_secret_until DATETIME(6) NULL,
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  disabled_at DATETIME(6) NULL,
  disabled_for VARCHAR(20) CHARACTER SET ascii NOT NULL DEFAULT '' COMMENT 'gone, failing',
  deleted_at DATETIME(6) NULL,
  failing_since DATETIME(6) NULL COMMENT 'the first of the calls in a row that failed',
  failures INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'in a row',
  paused_until DATETIME(6) NULL,
  calls BIGINT UNSIGNED NOT NULL DEFAULT 0,
  owner BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'the process that calls it, while its lease lasts',
  leased_until DATETIME(6) NULL,
  KEY idx_webhooks_customer (customer_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS webhook_events (
  webhook_id BIGINT UNSIGNED NOT NULL,
  subject VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT '<message>-<position>, or a UUID',
  kind TINYINT UNSIGNED NOT NULL COMMENT 'webhook.h',
  data TEXT NOT NULL COMMENT 'JSON',
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  next_at DATETIME(6) NULL COMMENT 'when it is to be sent; NULL = over',
  delivered_at DATETIME(6) NULL,
  attempts SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  last_status SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT '0 = none, or no answer',
  PRIMARY KEY (webhook_id, subject, kind),
  KEY idx_webhook_events_due (webhook_id, next_at),
  KEY idx_webhook_events_made (webhook_id, created_at),
  KEY idx_webhook_events_created (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS webhook_attempts (
  webhook_id BIGINT UNSIGNED NOT NULL,
  slot SMALLINT UNSIGNED NOT NULL COMMENT 'the number of the call, modulo how many are kept',
  call_no BIGINT UNSIGNED NOT NULL,
  at DATETIME(6) NOT NULL,
  event_id VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'the first of the request',
  events SMALLINT UNSIGNED NOT NULL,
  result VARCHAR(20) CHARACTER SET ascii NOT NULL,
  status SMALLINT UNSIGNED NOT NULL COMMENT '0 = no answer',
  took_ms INT UNSIGNED NOT NULL,
  PRIMARY KEY (webhook_id, slot)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
