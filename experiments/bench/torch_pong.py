"""The agent of `selfplay` in PyTorch, in its own process: it needs only torch.

    PYTHON torch_pong.py ITERATIONS

Learns from 64 courts at once against its frozen copy, with the court, network, memory, loss and
rates of `experiments/rl`, eager and without gradients where none are needed. Prints the wall time
and processor time of the iterations, after some that are not counted.
"""

import json
import sys
import time

import torch
from torch import nn

COPIES, BATCH, CAPACITY, COPY, GAMMA, EXPLORE, SLIP = 64, 256, 200_000, 250, 0.99, 0.05, 0.05
PADDLE, REACH, LIMIT = 0.03, 0.1, 300
SLOW, FAST, FASTER, STEEP, SERVE = 0.03, 0.06, 1.05, 0.04, 0.02
MOVES = torch.tensor([0.0, 1.0, -1.0])
SCALE = torch.tensor([1 / FAST, 1 / STEEP])


class Courts:
    def __init__(self, count: int):
        self.ball, self.velocity = torch.empty(count, 2), torch.empty(count, 2)
        self.paddles, self.age = torch.empty(count, 2), torch.zeros(count)
        self.serve(torch.ones(count, dtype=torch.bool))

    def serve(self, over: torch.Tensor) -> None:
        luck = torch.rand(len(over), 3)
        ball = torch.stack([torch.full((len(over),), 0.5), 0.1 + 0.8 * luck[:, 0]], 1)
        across = torch.where(luck[:, 1] < 0.5, -SLOW, SLOW)
        velocity = torch.stack([across, SERVE * (2 * luck[:, 2] - 1)], 1)
        both = over[:, None]
        self.ball = torch.where(both, ball, self.ball)
        self.velocity = torch.where(both, velocity, self.velocity)
        self.paddles = torch.where(both, 0.5, self.paddles)
        self.age = torch.where(over, 0.0, self.age)

    def step(self, moves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.paddles = (self.paddles + PADDLE * moves).clamp(REACH, 1 - REACH)
        x, y = (self.ball + self.velocity).unbind(1)
        across, up = self.velocity.unbind(1)
        up = torch.where((y < 0) | (y > 1), -up, up)
        y = torch.where(y > 1, 2 - y, y.abs())
        left, right = x <= 0, x >= 1
        offset = (y - torch.where(left, self.paddles[:, 0], self.paddles[:, 1])) / REACH
        out = left | right
        hit = out & (offset.abs() <= 1)
        speed = (FASTER * across.abs()).clamp(max=FAST)
        across = torch.where(hit, torch.where(left, speed, -speed), across)
        self.velocity = torch.stack([across, torch.where(hit, STEEP * offset, up)], 1)
        x = torch.where(hit, torch.where(left, -x, 2 - x), x)
        self.ball, self.age = torch.stack([x, y], 1), self.age + 1
        missed = out & ~hit
        reward = torch.where(missed, torch.where(left, -1.0, 1.0), 0.0)
        end = missed | (self.age >= LIMIT)
        self.serve(end)
        return reward, end

    def seen(self, mirrored: bool = False) -> torch.Tensor:
        ball, velocity, paddles = 2 * self.ball - 1, self.velocity * SCALE, 2 * self.paddles - 1
        if mirrored:
            turned = torch.tensor([-1.0, 1.0])
            ball, velocity, paddles = ball * turned, velocity * turned, paddles.flip(1)
        return torch.cat([ball, velocity, paddles], 1)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )


class Agent:
    def __init__(self) -> None:
        self.net, self.target, self.foe = network(), network(), network()
        self.adam = torch.optim.Adam(self.net.parameters(), 5e-4)
        self.courts, self.count = Courts(COPIES), 0
        self.seen, self.following = torch.zeros(CAPACITY, 6), torch.zeros(CAPACITY, 6)
        self.action = torch.zeros(CAPACITY, dtype=torch.long)
        self.reward, self.going = torch.zeros(CAPACITY), torch.zeros(CAPACITY)

    @torch.no_grad()
    def act(self) -> None:
        seen, other = self.courts.seen(), self.courts.seen(mirrored=True)
        luck, random = torch.rand(2, COPIES), torch.randint(3, (2, COPIES))
        action = torch.where(luck[0] < EXPLORE, random[0], self.net(seen).argmax(1))
        answer = torch.where(luck[1] < SLIP, random[1], self.foe(other).argmax(1))
        reward, end = self.courts.step(torch.stack([MOVES[action], MOVES[answer]], 1))
        at = self.count % (CAPACITY // COPIES) * COPIES
        rows = slice(at, at + COPIES)
        self.seen[rows], self.action[rows], self.reward[rows] = seen, action, reward
        self.following[rows], self.going[rows] = self.courts.seen(), 1.0 - end.float()

    def iteration(self) -> None:
        if self.count % COPY == 0:
            self.target.load_state_dict(self.net.state_dict())
        self.act()
        self.count += 1
        rows = torch.randint(min(self.count, CAPACITY // COPIES) * COPIES, (BATCH,))
        with torch.no_grad():
            following = self.following[rows]
            best = self.net(following).argmax(1, keepdim=True)
            after = self.target(following).gather(1, best)[:, 0]
            goal = self.reward[rows] + GAMMA * self.going[rows] * after
        taken = self.net(self.seen[rows]).gather(1, self.action[rows][:, None])[:, 0]
        loss = nn.functional.huber_loss(taken, goal)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


def main(iterations: int) -> None:
    torch.set_num_threads(1)  # more are slower on sizes such as these
    agent = Agent()
    for _ in range(50):
        agent.iteration()
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(iterations):
        agent.iteration()
    taken = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    print(json.dumps(taken))


if __name__ == "__main__":
    main(int(sys.argv[1]))
