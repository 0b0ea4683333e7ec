-- One row a request: what a retry or a repair is rebuilt from.
CREATE TABLE IF NOT EXISTS messages (
  message_identifier VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  customer_id BIGINT NOT NULL,
  type VARCHAR(50) CHARACTER SET ascii NOT NULL,
  text VARCHAR(4096) NOT NULL,
  recipients INT UNSIGNED NOT NULL,
  price BIGINT NOT NULL COMMENT 'of one recipient',
  traceparent VARCHAR(55) CHARACTER SET ascii NOT NULL DEFAULT '',
  tracestate VARCHAR(512) CHARACTER SET ascii NOT NULL DEFAULT '',
  accepted_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  retry_until DATETIME(6) NULL COMMENT 'set when the first retry is written',
  enqueues INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'outbox rows written after the first: n of message.retry.<n>',
  repairs INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'of the enqueues, those by the repair',
  repaired_at DATETIME(6) NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
