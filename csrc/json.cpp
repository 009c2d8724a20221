#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

namespace kbnet {
namespace {

constexpr int kDeepest = 32;

void append_utf8(std::string& to, uint32_t point) {
    const auto byte = [&](uint32_t value) { to.push_back(static_cast<char>(value)); };
    if (point < 0x80)
        byte(point);
    else if (point < 0x800)
        byte(0xC0 | point >> 6), byte(0x80 | (point & 63));
    else if (point < 0x10000)
        byte(0xE0 | point >> 12), byte(0x80 | (point >> 6 & 63)), byte(0x80 | (point & 63));
    else
        byte(0xF0 | point >> 18), byte(0x80 | (point >> 12 & 63)), byte(0x80 | (point >> 6 & 63)),
            byte(0x80 | (point & 63));
}

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    Json whole() {
        Json value = this->value(0);
        skip();
        if (at_ != text_.size()) fail();
        return value;
    }

private:
    [[noreturn]] void fail() const { throw std::runtime_error("invalid JSON at byte " + std::to_string(at_)); }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void skip() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
            ++at_;
    }

    bool take(char c) {
        skip();
        if (at_ >= text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }

    bool take(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    Json value(int depth) {
        if (depth > kDeepest) fail();
        skip();
        Json made;
        switch (peek()) {
            case '{': object(made, depth); break;
            case '[': array(made, depth); break;
            case '"': made.kind = Json::kString, made.text = string(); break;
            case 't': case 'f':
                made.kind = Json::kBool, made.boolean = take("true");
                if (!made.boolean && !take("false")) fail();
                break;
            case 'n':
                if (!take("null")) fail();
                break;
            default: made.kind = Json::kNumber, made.number = number();
        }
        return made;
    }

    void object(Json& made, int depth) {
        made.kind = Json::kObject;
        ++at_;
        if (take('}')) return;
        do {
            skip();
            if (peek() != '"') fail();
            std::string name = string();
            if (!take(':')) fail();
            made.members.emplace_back(std::move(name), value(depth + 1));
        } while (take(','));
        if (!take('}')) fail();
    }

    void array(Json& made, int depth) {
        made.kind = Json::kArray;
        ++at_;
        if (take(']')) return;
        do
            made.items.push_back(value(depth + 1));
        while (take(','));
        if (!take(']')) fail();
    }

    uint32_t four_digits() {
        uint32_t value = 0;
        for (int i = 0; i < 4; ++i) {
            const char c = peek();
            const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
            if (digit < 0) fail();
            value = value * 16 + static_cast<uint32_t>(digit);
            ++at_;
        }
        return value;
    }

    void escaped(std::string& to) {
        constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
        const char c = peek();
        ++at_;
        if (const std::size_t i = c ? kNames.find(c) : std::string_view::npos; i != std::string_view::npos)
            return to.push_back(kMeanings[i]);
        if (c != 'u') fail();
        uint32_t point = four_digits();
        if (point >= 0xD800 && point < 0xDC00) {
            if (!take("\\u")) fail();
            const uint32_t low = four_digits();
            if (low < 0xDC00 || low >= 0xE000) fail();
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        } else if (point >= 0xDC00 && point < 0xE000)
            fail();
        append_utf8(to, point);
    }

    std::string string() {
        std::string made;
        for (++at_; at_ < text_.size() && text_[at_] != '"';) {
            const char c = text_[at_++];
            if (static_cast<unsigned char>(c) < 0x20) fail();
            if (c == '\\')
                escaped(made);
            else
                made.push_back(c);
        }
        if (peek() != '"') fail();
        ++at_;
        return made;
    }

    // Independent of the locale; correctly rounded for up to 15 digits and exponents up to 22.
    double number() {
        double mantissa = 0;
        int exponent = 0;
        const auto digits = [&](int scale) {
            const std::size_t first = at_;
            for (; peek() >= '0' && peek() <= '9'; ++at_) mantissa = mantissa * 10 + (peek() - '0'), exponent -= scale;
            if (at_ == first) fail();
            return at_ - first;
        };
        const bool negative = peek() == '-';
        if (negative) ++at_;
        const bool zero = peek() == '0';
        if (digits(0) > 1 && zero) fail();
        if (peek() == '.') ++at_, digits(1);
        if ((peek() | 32) == 'e') {
            ++at_;
            const bool down = peek() == '-';
            if (down || peek() == '+') ++at_;
            int shift = 0;
            if (peek() < '0' || peek() > '9') fail();
            for (; peek() >= '0' && peek() <= '9'; ++at_) shift = std::min(shift * 10 + (peek() - '0'), 1000);
            exponent += down ? -shift : shift;
        }
        const double power = std::pow(10.0, std::abs(exponent));
        const double value = exponent < 0 ? mantissa / power : mantissa * power;
        return negative ? -value : value;
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
    for (auto member = members.rbegin(); member != members.rend(); ++member)
        if (member->first == name) return &member->second;
    return nullptr;
}

Json parse_json(std::string_view text) { return Parser(text).whole(); }

}  // namespace kbnet
