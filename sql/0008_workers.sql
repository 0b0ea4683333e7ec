-- One row a running msg-consumerd. Silent for ten seconds of database time: dead, its work may be taken.
CREATE TABLE IF NOT EXISTS workers (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  started_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  heartbeat_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  waiting_normal INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'messages delivered to it and not claimed yet',
  waiting_express INT UNSIGNED NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
