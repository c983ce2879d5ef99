"""RocketMQ's remoting protocol over a blocking socket: enough to ask RaftMQ and Apache the same questions, to make topics and to
send a message. Written apart from crates/wire on purpose. A frame: bytes after this word (4), header format 0 = JSON (1),
header length (3), header, body."""
import json
import re
import socket

SEND_MESSAGE, CREATE_TOPIC, RUNTIME, MAX_OFFSET, ROUTE, CLUSTER, REQUEST_MODE, GROUP_STATUS = 10, 17, 28, 30, 105, 106, 401, 30_001


class Refused(Exception):
    """An answer whose code is not 0."""

    def __init__(self, request, code, remark):
        super().__init__(f'request {request}: code {code}: {remark}')
        self.code = code


class Connection:
    """Requests one at a time; `limit` holds for the connect and for each read."""

    def __init__(self, address, limit=5.0):
        host, port = address.rsplit(':', 1)
        self.socket = socket.create_connection((host, int(port)), limit)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opaque = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def call(self, code, fields=None, body=b''):
        """The answer's fields and body."""
        self.opaque += 1
        fields = {name: str(value) for name, value in (fields or {}).items()}
        header = json.dumps({'code': code, 'language': 'JAVA', 'version': 479, 'opaque': self.opaque, 'flag': 0,
                             'serializeTypeCurrentRPC': 'JSON', 'extFields': fields}).encode()
        self.socket.sendall((4 + len(header) + len(body)).to_bytes(4, 'big') + len(header).to_bytes(4, 'big') + header + body)
        while True:
            frame = self.read(int.from_bytes(self.read(4), 'big'))
            end = 4 + int.from_bytes(frame[1:4], 'big')
            answer = json.loads(frame[4:end])
            # Requests of the server have bit 0 clear.
            if answer['flag'] & 1 and answer['opaque'] == self.opaque:
                break
        if answer['code']:
            raise Refused(code, answer['code'], answer.get('remark'))
        return answer.get('extFields') or {}, frame[end:]

    def read(self, length):
        data = bytearray()
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise ConnectionError('the connection was closed')
            data += part
        return bytes(data)


def loose_json(text):
    """JSON as fastjson prints it: integer keys of maps lack their quotes."""
    return json.loads(re.sub(r'([{,])\s*(-?\d+)\s*:', r'\1"\2":', text.decode()))


def call(address, code, fields=None, body=b'', limit=5.0):
    with Connection(address, limit) as connection:
        return connection.call(code, fields, body)


def masters(nameserver):
    """Broker name → address of its master, as far as the nameserver knows one."""
    table = loose_json(call(nameserver, CLUSTER)[1]).get('brokerAddrTable') or {}
    return {name: broker['brokerAddrs']['0'] for name, broker in table.items() if '0' in broker['brokerAddrs']}


def write_queues(nameserver, topic):
    """How many the topic has in all brokers; 0 for an unknown topic."""
    try:
        route = loose_json(call(nameserver, ROUTE, {'topic': topic})[1])
    except Refused:
        return 0
    return sum(data['writeQueueNums'] for data in route['queueDatas'])


def create_topics(address, topics, queues):
    with Connection(address, 15.0) as connection:
        for topic in topics:
            connection.call(CREATE_TOPIC, {
                'topic': topic, 'defaultTopic': 'TBW102', 'readQueueNums': queues, 'writeQueueNums': queues, 'perm': 6,
                'topicFilterType': 'SINGLE_TAG', 'topicSysFlag': 0, 'order': 'false'})


def send(address, topic, limit=5.0, properties=None):
    """One message to queue 0; an exception unless it was stored."""
    pairs = ''.join(f'{name}\x01{value}\x02' for name, value in (properties or {}).items())
    call(address, SEND_MESSAGE, {
        'producerGroup': 'compare', 'topic': topic, 'defaultTopic': 'TBW102', 'defaultTopicQueueNums': 4, 'queueId': 0,
        'sysFlag': 0, 'bornTimestamp': 1_700_000_000_000, 'flag': 0, 'properties': pairs, 'reconsumeTimes': 0, 'unitMode': 'false',
        'batch': 'false'}, b'x', limit)


def request_mode(address, topic, group, mode):
    """How a group takes a topic's messages from one broker: PULL, or POP by every client from every queue."""
    body = {'topic': topic, 'consumerGroup': group, 'mode': mode, 'popShareQueueNum': 0}
    call(address, REQUEST_MODE, body=json.dumps(body).encode())


def log_end(address):
    """The end of the broker's log, a position in bytes."""
    return int(json.loads(call(address, RUNTIME)[1])['table']['commitLogMaxOffset'])


def stored(address, topic, queues):
    """Messages that a topic has had at this broker."""
    with Connection(address) as connection:
        return sum(int(connection.call(MAX_OFFSET, {'topic': topic, 'queueId': queue})[0]['offset']) for queue in range(queues))


def group_status(address, limit=5.0):
    """What a RaftMQ node says of its group."""
    return json.loads(call(address, GROUP_STATUS, limit=limit)[1])
