-- Work to do and nothing else. A claim is a row lock; a published row is deleted. Fresh rows
-- (next_run_at NULL) are polled by id, put-off rows by time, each lane in its own part of one index.
CREATE TABLE IF NOT EXISTS outbox_events (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  aggregate_type VARCHAR(50) CHARACTER SET ascii NOT NULL,
  aggregate_id VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  event_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  payload JSON NOT NULL,
  priority INT NOT NULL DEFAULT 0,
  lane TINYINT GENERATED ALWAYS AS (IF(priority >= 5, 1, 0)) STORED,
  status VARCHAR(20) CHARACTER SET ascii NOT NULL DEFAULT 'pending',
  attempts INT NOT NULL DEFAULT 0,
  next_run_at DATETIME(6) NULL,
  last_error TEXT NULL,
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  updated_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  UNIQUE KEY uq_outbox_aggregate_event (aggregate_id, event_type),
  KEY idx_outbox_poll (lane, next_run_at, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
