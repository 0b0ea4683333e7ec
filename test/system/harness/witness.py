"""Database and broker, asked directly."""

import json
from urllib.parse import quote

import pika
import pymysql
import requests

MARK = "/* a test's connection */"
BUNDLE = "application/vnd.messaging.bundle+json"


def numbers(n):
    """A table with a column `seq` from 1 to n (MariaDB alone has such tables by name)."""
    return f"JSON_TABLE(CONCAT('[0',REPEAT(',0',{n}-1),']'),'$[*]' COLUMNS(seq FOR ORDINALITY)) numbers"


def members(properties, body):
    """The messages of an AMQP message as their publisher wrote them: several in a bundle."""
    return json.loads(body)["messages"] if properties.content_type == BUNDLE else [json.loads(body)]


class Database:
    def __init__(self, values):
        self.values = values

    def connect(self, **options):
        v = self.values
        connection = pymysql.connect(
            host=v["DB_HOST"], port=int(v["DB_PORT"]), user=v["DB_USER_NAME"],
            password=v["DB_PASSWORD"], database=v["DB_NAME"], charset="utf8mb4", connect_timeout=10,
            **{"read_timeout": 60, "autocommit": True,
               "init_command": f"SET SESSION time_zone='+00:00' {MARK}", **options})
        with connection.cursor() as cursor:  # the variable has another name in MySQL
            cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED {MARK}")
        return connection

    def rows(self, sql, *arguments):
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return cursor.fetchall()

    def records(self, sql, *arguments):
        with self.connect(cursorclass=pymysql.cursors.DictCursor) as connection, \
                connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return cursor.fetchall()

    def value(self, sql, *arguments):
        return self.rows(sql, *arguments)[0][0]

    def execute(self, sql, *arguments):
        with self.connect() as connection, connection.cursor() as cursor:
            return cursor.execute(sql, arguments or None)

    @property
    def is_mariadb(self):
        return "MariaDB" in self.value("SELECT VERSION()")

    def tables(self):
        return [row[0] for row in self.rows("SHOW TABLES")]

    def counts(self):
        """Rows in every table that requests may write to."""
        skip = ("workers", "published_open", "schema_migrations")
        return {t: self.value(f"SELECT COUNT(*) FROM `{t}`") for t in self.tables()
                if t not in skip}

    def balance(self, customer):
        rows = self.rows("SELECT balance FROM user_balances WHERE user_id=%s", customer)
        return rows[0][0] if rows else 0

    def ledger(self, customer):
        """[(type, amount, transaction id)] in the order of insertion."""
        return list(self.rows("SELECT transaction_type, amount, transaction_id FROM user_transactions "
                              "WHERE user_id=%s ORDER BY id", customer))

    def seed_customers(self, n, balance, first=1):
        """Balances with the deposit that explains them; returns the ids."""
        ids = list(range(first, first + n))
        with self.connect(autocommit=False) as connection, connection.cursor() as cursor:
            for start in range(0, n, 1000):
                part = ids[start:start + 1000]
                cursor.execute("INSERT INTO user_balances(user_id, balance) VALUES "
                               + ",".join(f"({i},{balance})" for i in part))
                cursor.execute(
                    "INSERT INTO user_transactions(user_id, amount, transaction_type, description,"
                    " transaction_id) VALUES "
                    + ",".join(f"({i},{balance},'deposit','seed',CONCAT('d-',UUID()))" for i in part))
            connection.commit()
        return ids


    def seed_endpoints(self, endpoints, secret, kinds=31):
        """[(customer, url, batch)], each told of all that happens; before anybody runs."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.executemany("INSERT INTO webhooks(customer_id,url,batch,kinds,secret) VALUES (%s,%s,%s,%s,%s)",
                               [(*endpoint, kinds, secret) for endpoint in endpoints])


class Broker:
    def __init__(self, values):
        self.uri = values["RABBIT_URI"]
        self.management = values["RABBIT_MANAGEMENT_URL"] + "/api"
        self.login = (values["RABBIT_USER_NAME"], values["RABBIT_PASSWORD"])
        self.exchange = values["RABBIT_MESSAGE_EXCHANGE"]
        self.express, self.normal = values["EXPRESS_QUEUE"], values["NORMAL_QUEUE"]
        self.dead = self.exchange + ".dead"

    def connect(self):
        return pika.BlockingConnection(pika.URLParameters(self.uri + "%2F"))

    def publish(self, queue, body, **properties):
        connection = self.connect()
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish(self.exchange, queue, body,
                                  pika.BasicProperties(delivery_mode=2, **properties), mandatory=True)
        finally:
            connection.close()

    def publish_by_management(self, queue, body, headers, **properties):
        """As somebody does who is not bound by the size of a frame. headers: JSON text."""
        text = json.dumps({"properties": {"delivery_mode": 2, "headers": {}, **properties}, "routing_key": queue,
                           "payload": body, "payload_encoding": "string"})
        response = requests.post(f"{self.management}/exchanges/%2F/{quote(self.exchange, safe='')}/publish",
                                 auth=self.login, timeout=60,
                                 data=text.replace('"headers": {}', f'"headers": {headers}', 1))
        assert response.status_code == 200 and response.json()["routed"], response.text

    def get(self, queue):
        """Takes one message off a queue: (properties, body) or None."""
        connection = self.connect()
        try:
            method, properties, body = connection.channel().basic_get(queue, auto_ack=True)
            return (properties, body) if method else None
        finally:
            connection.close()

    def take(self, queue):
        """Takes all that is ready in a queue: [(properties, body)]."""
        connection = self.connect()
        try:
            channel, taken = connection.channel(), []
            while (got := channel.basic_get(queue, auto_ack=True))[0]:
                taken.append(got[1:])
            return taken
        finally:
            connection.close()

    def queue(self, name):
        """The management view of a queue (a second old at most); None when it does not exist."""
        response = requests.get(f"{self.management}/queues/%2F/{quote(name, safe='')}",
                                auth=self.login, timeout=10)
        return response.json() if response.status_code == 200 else None

    def ready(self, name):
        """Messages ready in a queue, from the queue itself; None when it does not exist."""
        connection = self.connect()
        try:
            return connection.channel().queue_declare(name, passive=True).method.message_count
        except pika.exceptions.ChannelClosedByBroker:
            return None
        finally:
            if connection.is_open:
                connection.close()

    def depth(self, name):
        """Ready and unacknowledged messages."""
        found = self.queue(name)
        return found.get("messages", 0) if found else 0
