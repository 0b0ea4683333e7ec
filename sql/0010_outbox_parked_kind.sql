-- What is parked keeps its kind. Asked first, because this file may run twice.
SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'outbox_parked' AND column_name = 'kind') = 0,
  'ALTER TABLE outbox_parked
     ADD COLUMN kind TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT ''as in outbox_events''',
  'DO 0');
PREPARE change_parked FROM @change;
EXECUTE change_parked;
DEALLOCATE PREPARE change_parked;
