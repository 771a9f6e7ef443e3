"""Stops the training, which saves it, when EC2 says that it takes this spot machine back.

The notice comes two minutes before, in the instance metadata alone: see "Spot Instance interruption
notices" in the EC2 user guide, which says to look every five seconds. A machine on demand never
gets one.
"""
import http.client
import subprocess
import time
import urllib.request

METADATA = 'http://169.254.169.254/latest/'
LOOK = 5            # seconds


def is_announced():
    """Whether the notice is there. The metadata want a token (IMDSv2)."""
    ask = urllib.request.Request(METADATA + 'api/token', method='PUT',
                                 headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'})
    try:
        with urllib.request.urlopen(ask, timeout=2) as answer:
            token = answer.read().decode()
        look = urllib.request.Request(METADATA + 'meta-data/spot/instance-action',
                                      headers={'X-aws-ec2-metadata-token': token})
        urllib.request.urlopen(look, timeout=2).close()
    except (OSError, http.client.HTTPException, ValueError):
        return False        # 404: there is none; or there are no metadata here, or damaged ones
    return True


def main():
    """The command: returns once the training has been told to stop."""
    while not is_announced():
        time.sleep(LOOK)
    subprocess.run(['systemctl', '--no-block', 'stop', 'roadseg-train.service'], check=True)


if __name__ == '__main__':
    main()
