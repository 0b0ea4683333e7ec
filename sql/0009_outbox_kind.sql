-- A row of the outbox says its kind (libcommon/domain/outbox.h), and each kind has its own part of the
-- index. Asked first, because this file may run twice.
SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'outbox_events' AND column_name = 'kind') = 0,
  'ALTER TABLE outbox_events
     ADD COLUMN kind TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT ''1 = a message to be delivered'',
     DROP KEY idx_outbox_poll,
     ADD KEY idx_outbox_poll (lane, kind, next_run_at, id)',
  'DO 0');
PREPARE change_outbox FROM @change;
EXECUTE change_outbox;
DEALLOCATE PREPARE change_outbox;
