-- Outbox rows that could not be published, for a person to look at. No poll and no count touches them.
CREATE TABLE IF NOT EXISTS outbox_parked (
  id BIGINT NOT NULL PRIMARY KEY COMMENT 'the id the row had in outbox_events',
  aggregate_type VARCHAR(50) CHARACTER SET ascii NOT NULL,
  aggregate_id VARCHAR(50) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  event_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  payload JSON NOT NULL,
  priority INT NOT NULL,
  attempts INT NOT NULL,
  last_error TEXT NULL,
  created_at DATETIME(6) NOT NULL,
  parked_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  KEY idx_outbox_parked_aggregate (aggregate_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
