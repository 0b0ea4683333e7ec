"""Messages in bulk: the rows that msg-api writes for a send to one recipient, and for old ones those
that are left of it when it is done. Charges and balances included, so that every audit still holds.
"""

import time

CHUNK = 20_000  # rows a transaction

IDENTIFIER = "LOWER(CONCAT('{high}-{low}-7000-8000-',LPAD(HEX(i),12,'0')))"
TRACE = "CONCAT('00-',MD5(i),'-',LEFT(MD5(i+1),16),'-02')"
SOURCE = "(SELECT seq-1+{start} AS i FROM seq_1_to_{count}) s"

MESSAGES = """INSERT INTO messages(message_identifier,customer_id,type,text,recipients,price,
traceparent,tracestate) SELECT {id},{customer},'normal','load test',1,1,{trace},'' FROM {source}"""

WAITING = """INSERT INTO message_status(user_id,status,type,recipient,message_identifier,position,price)
SELECT {customer},'pending','normal',{recipient},{id},0,1 FROM {source}"""

DONE = """INSERT INTO message_status(user_id,status,type,recipient,provider,message_identifier,position,
price,attempt,owner,provider_message_id,first_claimed_at) SELECT {customer},'done','normal',{recipient},
'operatorA',{id},0,1,1,1,CONCAT('operatorA-',LEFT(MD5(i),16)),NOW(6) FROM {source}"""

LEDGER = """INSERT INTO user_transactions(user_id,amount,transaction_type,description,transaction_id)
SELECT {customer},-1,'withdrawal','Message charge',CONCAT('c-',{id}) FROM {source}"""

OUTBOX = """INSERT INTO outbox_events(aggregate_type,aggregate_id,event_type,payload,priority,next_run_at)
SELECT 'message',{id},'message.send',CONCAT('{{"exchange":"{exchange}","routing_key":"{queue}","message":'
'{{"customer_id":',{customer},',"text":"load test","recipients":["',{recipient},'"],"type":"normal",'
'"transaction_id":"c-',{id},'","message_identifier":"',{id},'"}},"transaction_id":"c-',{id},
'","traceparent":"',{trace},'","tracestate":"","accepted_us":{now_us}}}'),0,NULL FROM {source}"""

DEPOSITS = """INSERT INTO user_transactions(user_id,amount,transaction_type,description,transaction_id)
SELECT seq,{amount},'deposit','benchmark',CONCAT('d-',UUID()) FROM seq_1_to_{users}"""

BALANCES = """INSERT INTO user_balances(user_id,balance) SELECT seq,{rest} FROM seq_1_to_{users}
ON DUPLICATE KEY UPDATE balance=balance+{rest}"""


def messages(stack, count, users, done=False):
    """`count` normal messages of customers 1…users, a multiple of their number: done, or waiting in
    the outbox. Their cost is deposited too, so that balances stay as they were."""
    if count % users:
        raise ValueError("every customer sends the same number")
    values = stack.values
    with stack.db.connect(autocommit=False, read_timeout=600) as connection, \
            connection.cursor() as cursor:
        cursor.execute(DEPOSITS.format(amount=count // users, users=users))
        cursor.execute(BALANCES.format(rest=0, users=users))
        connection.commit()
        for start in range(0, count, CHUNK):
            now_us = time.time_ns() // 1000
            stamp = f"{now_us // 1000:012x}"
            text = {"id": IDENTIFIER.format(high=stamp[:8], low=stamp[8:]),
                    "customer": f"(1+i%{users})", "recipient": "CONCAT('0912',LPAD(i,8,'0'))",
                    "trace": TRACE, "now_us": now_us,
                    "exchange": values["RABBIT_MESSAGE_EXCHANGE"], "queue": values["NORMAL_QUEUE"],
                    "source": SOURCE.format(start=start, count=min(CHUNK, count - start))}
            for statement in (MESSAGES, DONE if done else WAITING, LEDGER, *([] if done else [OUTBOX])):
                cursor.execute(statement.format(**text))
            connection.commit()
