-- A row is born with the room that its delivery fills: first_claimed_at takes eight bytes of it, who
-- has the message and what they call it the rest. A row that grew instead would leave its page,
-- which is full, and split it: three times the redo, and pages half empty for good. Asked first,
-- because this file may run twice.
SET @change = IF(
  (SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'message_status' AND column_name = 'room') = 0,
  CONCAT('ALTER TABLE message_status
     ADD COLUMN room VARCHAR(48) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''',
     REPEAT('.', 48), ''' COMMENT ''says nothing: shrinks as the other columns grow'''),
  'DO 0');
PREPARE change_status FROM @change;
EXECUTE change_status;
DEALLOCATE PREPARE change_status;
